package record

import "time"

// MaintenanceMode is the value of `maintenance`, in plain text.
type MaintenanceMode string

const (
	MaintenanceOff     MaintenanceMode = ""
	MaintenanceOn      MaintenanceMode = "enable"
	MaintenanceLeaving MaintenanceMode = "disable" // it ends when the node of `maintenance/master` has confirmed
)

// Maintenance is what the three maintenance records say together.
type Maintenance struct {
	Mode   Rec[MaintenanceMode]
	Since  Rec[string] // RFC 3339, as written
	Master Rec[string] // who was the primary then
}

// On reports whether no node may change roles, or start or stop a server, of its
// own accord. It stays true until leaving is complete.
func (m Maintenance) On() bool { return m.Mode.Value != MaintenanceOff }

// Time is Since as a time, zero if it cannot be read.
func (m Maintenance) Time() time.Time {
	at, err := time.Parse(time.RFC3339, m.Since.Value)
	if err != nil {
		return time.Time{}
	}
	return at
}
