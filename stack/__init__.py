"""What every part of the stack shares: settings, the instance record in etcd, the doctor, the processes-only way."""
