"""PyTorch to Relax: `export` modules, import the `graph`; the other modules are tables of converters it reads."""
