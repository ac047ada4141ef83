package etcd

// OpenPatience is for tests that step the time.
const OpenPatience = openPatience
