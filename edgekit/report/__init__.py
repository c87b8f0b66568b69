"""The forms of a build's report: data model, terminal, JSON, Markdown, JUnit and HTML."""
