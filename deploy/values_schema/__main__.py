"""python -m deploy.values_schema"""

from deploy.values_schema import FILE, text

FILE.write_text(text())
