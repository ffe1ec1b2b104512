"""Reading rows: files of any format, and rows as texts or conversations."""
