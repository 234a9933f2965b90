"""Reports to embeddings by text models of Hugging Face, such as BioBERT, over whole texts; kept in the store."""
