"""From rows of text to batches of tokens; knows no Ray."""
