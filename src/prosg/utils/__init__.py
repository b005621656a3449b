"""What every package may use: files, logs, jobs, devices, processes, tables. Imports nothing else of prosg."""
