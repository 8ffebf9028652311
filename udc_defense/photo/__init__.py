"""One photo through everything: where it comes from, what is done to it, what comes out and what is written of it."""
