"""Files to chunks: discover, parse, chunk, and the loop that stores them."""
