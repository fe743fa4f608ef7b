"""What a server counts: a block of memory with 64-bit cells, and the table that names them."""
