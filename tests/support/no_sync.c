/* Loaded by LD_PRELOAD: every sync says that it is done, and does nothing. */
int fsync(int descriptor) { return 0; }
int fdatasync(int descriptor) { return 0; }
int syncfs(int descriptor) { return 0; }
