"""`fastsmtp bench`: many clients at once that send mail to a server, and the figures of that."""
