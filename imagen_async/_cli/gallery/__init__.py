"""The gallery of a folder: what makes its page, and the page's own template, style and script."""
