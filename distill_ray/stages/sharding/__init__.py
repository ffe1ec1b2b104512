"""How text becomes packed rows: sources, tokenizing and packing on Ray Data."""
