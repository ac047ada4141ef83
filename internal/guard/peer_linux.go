package guard

import (
	"errors"
	"net"
	"syscall"
)

// peerOf asks the kernel who is at the other end.
func peerOf(conn *net.UnixConn) (uid, pid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, 0, err
	}
	var cred *syscall.Ucred
	var asked error
	err = raw.Control(func(fd uintptr) {
		cred, asked = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err := errors.Join(err, asked); err != nil {
		return -1, 0, err
	}
	return int(cred.Uid), int(cred.Pid), nil
}

func peerUID(conn *net.UnixConn) (int, error) {
	uid, _, err := peerOf(conn)
	return uid, err
}
