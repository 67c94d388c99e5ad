"""Files of texts and of tokenizers: find, read, check and write them."""
