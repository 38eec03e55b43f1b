"""One module a verb: explicit inputs in, one artifact out. One stage never imports another."""
