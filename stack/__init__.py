"""What every part shares: settings from the environment, the instance record in etcd, the doctor, the processes."""

__version__ = "0.1.0"
