"""Tasks on ranges of files, run by several processes or by a Dask cluster."""
