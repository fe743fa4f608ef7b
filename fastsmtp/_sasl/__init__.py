"""SASL without a connection: exchanges, mechanisms, SCRAM, SASLprep."""
