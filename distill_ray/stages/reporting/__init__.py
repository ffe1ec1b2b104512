"""How the report is written: facts, sections, charts, and the student's folder."""
