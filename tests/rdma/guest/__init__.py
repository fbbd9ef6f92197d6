"""The machine that the RDMA tests run in: a Debian guest under QEMU whose network card is also an RDMA device."""
