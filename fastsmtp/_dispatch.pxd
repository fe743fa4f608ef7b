from fastsmtp._exchange cimport Exchange
from fastsmtp._parser cimport Command, Fault


cpdef bint is_answered(Exchange dialogue, Command command, tuple refusals, int flags)
cpdef answer_fault(Exchange dialogue, Fault fault)
