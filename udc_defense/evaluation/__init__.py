"""From one photo to a table: the flow of a single image, the runner over many, and what is published of it."""
