"""What looks like this? Milvus ranks, SQL decides what exists."""
