package etcd

// OpenPatience is for tests that step the time.
const OpenPatience = openPatience

// ToEtcd shows what is sent for a transaction.
var ToEtcd = toEtcd
