"""All of Headgate on one machine: what `headgate demo` and `headgate up` start, watch, measure and stop."""
