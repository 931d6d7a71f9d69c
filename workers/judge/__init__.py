"""Whether drafts are acceptable: the word of a frontier model, a rubric or a person, and how often it is wrong."""
