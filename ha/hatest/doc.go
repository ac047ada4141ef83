// Package hatest simulates clusters: the code that ships, unchanged and with
// its goroutines, on machines, clocks, disks, a network, a store and PostgreSQL
// servers that exist only in memory. One seed is one schedule: the same seed
// gives the same run, every time, with and without the race detector.
package hatest
