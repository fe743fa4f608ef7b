from fastsmtp._hooks.callback cimport Answer
from fastsmtp.stream cimport DataStream


cpdef object drive(object coroutine, object loop, Answer answer, object host, DataStream stream)
