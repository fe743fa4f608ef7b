"""The grammar of arguments, PROXY headers and the scanners: octets in, values out."""
