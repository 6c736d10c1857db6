"""What the guest's tests stand on: real SCSI devices made inside the virtual machine, and a way to talk to them."""
