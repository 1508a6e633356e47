"""jinja2 templates of the generated builders and of the HTML report. Holds no Python."""
