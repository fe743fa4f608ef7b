from fastsmtp._hooks.callback cimport Answer
from fastsmtp._smtp.dialogue cimport Dialogue


cpdef handle_starttls(Dialogue dialogue, bytes argument)
cpdef go_on_inside(Dialogue dialogue)
cpdef _answered_inside(Dialogue dialogue, Answer answer)
cpdef greet_inside(Dialogue dialogue)
