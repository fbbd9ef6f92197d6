"""What every part of the stack shares: settings from the environment, the instance record in etcd, the doctor, the processes."""
