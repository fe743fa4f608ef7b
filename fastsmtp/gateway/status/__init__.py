"""The live status page of the admin listener: files for a browser, and what serves them."""
