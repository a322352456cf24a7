-- What the LLM's answers cost where its endpoint bills tokens; NULL where nobody said.
ALTER TABLE experiment ADD COLUMN llm_money REAL;
