/* Continues the scan of a read, by the instruction set that FS_SET names.
 *
 * Included by _wire/scan.h once for each set, so that the line rules (fs_step) are inlined into
 * each loop and compiled for its processor. Defines fs_advance_S and undefines FS_SET. `seen`
 * gathers the octets of the finished steps.
 */
#define FS_OF(name) FS_JOIN(name, FS_SET)

/* One step of less than 64 octets, or none. */
static __attribute__((noinline, unused)) FS_OF(FS_TARGET_) int FS_OF(fs_short_step_)(
    fs_read *read, FS_OF(fs_seen_) *seen, unsigned valid)
{
    unsigned char padded[FS_STEP];
    if (valid == 0)
        return FS_ALL;
    fs_cursor cursor = read->cursor;
    const unsigned char *const octets = fs_short_octets(read, valid, padded);
    const unsigned early = octets != padded ? FS_STEP - valid : 0; /* octets of earlier steps */
    fs_masks masks = FS_OF(fs_look_)(octets);
    masks.cr >>= early;
    masks.lf >>= early;
    masks.dot >>= early;
    const int status = fs_step(read, &cursor, masks, read->done, valid, FS_OF(FS_WIDE_));
    if (status == FS_ALL) {
        FS_OF(fs_see_)(seen, octets);
        read->cursor = cursor;
        read->done += valid;
    }
    return status;
}

/* Steps of 64 octets, as many as there are. */
static FS_INLINE FS_OF(FS_TARGET_) int FS_OF(fs_whole_steps_)(fs_read *read, FS_OF(fs_seen_) *seen)
{
    /* local copies, so that they can be kept in registers */
    fs_cursor cursor = read->cursor;
    FS_OF(fs_seen_) seen_here = *seen;
    const unsigned char *const octets = read->octets;
    const ptrdiff_t last = read->count - FS_STEP;
    ptrdiff_t base = read->done;
    int status = FS_ALL;
    for (; base <= last; base += FS_STEP) {
        status = fs_step(read, &cursor, FS_OF(fs_look_)(octets + base), base, FS_STEP,
                         FS_OF(FS_WIDE_));
        if (FS_UNLIKELY(status != FS_ALL))
            break;
        FS_OF(fs_see_)(&seen_here, octets + base);
    }
    *seen = seen_here;
    read->cursor = cursor;
    read->done = base;
    return status;
}

static inline FS_OF(FS_TARGET_) int FS_OF(fs_advance_)(fs_read *read)
{
    FS_OF(fs_seen_) seen = FS_OF(fs_seen_nothing_)();
    int status = FS_OF(fs_short_step_)(read, &seen, fs_head(read));
    if (status == FS_ALL && read->count - read->done >= FS_STEP)
        status = FS_OF(fs_whole_steps_)(read, &seen);
    if (status == FS_ALL)
        status = FS_OF(fs_short_step_)(read, &seen, (unsigned)(read->count - read->done));
    if (status == FS_ALL)
        read->kept = read->count;
    if (status == FS_END) {
        /* The octets before the dot are body; with end < 2 it was dropped in an earlier step. */
        const unsigned end = read->end, before = end >= 2 ? end - 2 : 0;
        if (FS_OF(fs_short_step_)(read, &seen, before) == FS_EDIT) {
            status = FS_EDIT;
        } else {
            read->kept = end >= 2 ? read->done : read->done + (ptrdiff_t)end - 1;
            read->done += (ptrdiff_t)(end - before) + 1;
        }
    }
    read->cursor.high |= FS_OF(fs_seen_high_)(&seen);
    read->cursor.nul |= FS_OF(fs_seen_nul_)(&seen);
    return status;
}

#undef FS_OF
#undef FS_SET
