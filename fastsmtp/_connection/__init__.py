"""One client's connection: the stages before the dialogue, output, deadlines."""
