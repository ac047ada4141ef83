package dcs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Record is a value of type T that is kept under one key as a JSON object, with
// the number of its format as the member "format". T says how the other members
// look; it may have a member "format" of its own, which then must hold Format.
//
// A reader that meets a newer format than it knows gets ErrNewer and no value,
// so that it neither misreads the record nor writes back less than there was.
// Raise Format with every change that an older reader would misread or must not
// drop; members that it may ignore can be added without. An older format, or
// none, is read as T takes it.
//
//	type config struct {
//		Mode string `json:"mode"`
//	}
//
//	record := dcs.Record[config]{Key: "/service/main/config", Format: 1}
//	seen, err := record.Read(ctx, store)
//	...
//	_, err = record.Write(ctx, store, seen, config{Mode: "sync"})
type Record[T any] struct {
	Key string
	// Format is what is written, and the newest that is read. At least 1.
	Format int
}

// Versioned is a record as one read or write left it. What it says of the key
// guards the next write.
type Versioned[T any] struct {
	Key      string
	Value    T
	Format   int      // as it was read or written; zero if it had none
	Revision Revision // zero: the key does not exist, and Value is zero
}

// Exists reports whether the key existed.
func (v Versioned[T]) Exists() bool { return v.Revision != 0 }

// Guard is the guard of the next write: nobody has written the record since.
func (v Versioned[T]) Guard() Guard { return At(v.Key, v.Revision) }

// Read reads the record. That it does not exist is no error: see Exists. Nor is
// an empty value, whose Value is zero. Errors: ErrNewer, a value that is no JSON
// for T, and those of Store.Get except ErrNotFound.
func (r Record[T]) Read(ctx context.Context, s Store) (Versioned[T], error) {
	kv, err := s.Get(ctx, r.Key)
	if errors.Is(err, ErrNotFound) {
		return Versioned[T]{Key: r.Key}, nil
	}
	if err != nil {
		return Versioned[T]{}, fmt.Errorf("read record %s: %w", r.Key, err)
	}
	return r.Decode(kv)
}

// Decode is Read of what a Get, a List or a Watch has returned. It does not
// matter under which key that was.
func (r Record[T]) Decode(kv KV) (Versioned[T], error) {
	value, format, err := decodeJSON[T](kv.Key, kv.Value, r.Format)
	if err != nil {
		return Versioned[T]{}, err
	}
	return Versioned[T]{Key: kv.Key, Value: value, Format: format, Revision: kv.Revision}, nil
}

// Write writes value if the record still is as seen, and if all further guards
// hold; a zero seen.Revision means that the record must not exist. It unbinds
// the key from any session.
//
// The errors are those of Store.Commit. After ErrConflict read again and decide
// again. After ErrAmbiguous the value may have landed, or may land yet: nothing
// may be built on what Read shows until the record has been written once more
// under that revision. A value that cannot be encoded is ErrInvalid.
func (r Record[T]) Write(ctx context.Context, s Store, seen Versioned[T], value T, guards ...Guard) (Versioned[T], error) {
	op, err := r.Op(value)
	if err != nil {
		return Versioned[T]{}, err
	}
	rev, err := s.Commit(ctx, Txn{
		If:   append([]Guard{At(r.Key, seen.Revision)}, guards...),
		Then: []Op{op},
	})
	if err != nil {
		return Versioned[T]{}, fmt.Errorf("write record %s: %w", r.Key, err)
	}
	return Versioned[T]{Key: r.Key, Value: value, Format: r.Format, Revision: rev}, nil
}

// Update reads the record, lets change make the next value of it, and writes
// that; anew when somebody else has written it in between, as long as ctx lives.
// change may be called several times, so it does nothing but compute. Its error
// ends Update and is returned as it is. The other errors are those of Read and
// Write, except that ErrConflict is returned only if one of the further guards
// did not hold.
func (r Record[T]) Update(ctx context.Context, s Store, change func(Versioned[T]) (T, error), guards ...Guard) (Versioned[T], error) {
	for {
		seen, err := r.Read(ctx, s)
		if err != nil {
			return Versioned[T]{}, err
		}
		value, err := change(seen)
		if err != nil {
			return Versioned[T]{}, err
		}
		written, err := r.Write(ctx, s, seen, value, guards...)
		if !errors.Is(err, ErrConflict) {
			return written, err
		}
		if len(guards) > 0 {
			if _, err := s.Commit(ctx, Txn{If: guards}); err != nil {
				return Versioned[T]{}, fmt.Errorf("update record %s: %w", r.Key, asCheck(err))
			}
		}
	}
}

// asCheck is the error of a transaction that only checks: nothing was written,
// whatever became of it.
func asCheck(err error) error {
	if errors.Is(err, ErrAmbiguous) {
		return fmt.Errorf("%w: %v", ErrUnavailable, err) //nolint:errorlint // Not an unknown outcome for the caller.
	}
	return err
}

// Op is the operation that writes value, for a larger transaction. Its guard is
// Versioned.Guard. The error wraps ErrInvalid.
func (r Record[T]) Op(value T) (Op, error) {
	if r.Format < 1 {
		return Op{}, fmt.Errorf("record %s: format %d, the first one is 1: %w", r.Key, r.Format, ErrInvalid)
	}
	data, err := json.Marshal(value)
	if err != nil {
		return Op{}, fmt.Errorf("record %s: encode %T: %w: %w", r.Key, value, ErrInvalid, err)
	}
	var head struct {
		Format *int `json:"format"`
	}
	if !isObject(data) || json.Unmarshal(data, &head) != nil {
		return Op{}, fmt.Errorf("record %s: %T is not a JSON object with a number as its format: %w", r.Key, value, ErrInvalid)
	}
	switch {
	case head.Format == nil:
		data = withFormat(data, r.Format)
	case *head.Format != r.Format:
		return Op{}, fmt.Errorf("record %s: the value says format %d, the record is of format %d: %w", r.Key, *head.Format, r.Format, ErrInvalid)
	}
	return Op{Key: r.Key, Value: data}, nil
}

// withFormat puts the format in front of the members of a JSON object, as
// json.Marshal makes it.
func withFormat(object []byte, format int) []byte {
	members := object[1:]
	head := fmt.Sprintf(`{"format":%d`, format)
	if !bytes.Equal(members, []byte("}")) {
		head += ","
	}
	return append([]byte(head), members...)
}

// DecodeJSON reads the value of a record without a Store: data is JSON for T of
// at most the format newest, which it names in its member "format" if it is an
// object. No data at all is the zero T. The error wraps ErrNewer if data is of a
// newer format; where is what the error calls the record.
func DecodeJSON[T any](where string, data []byte, newest int) (T, error) {
	value, _, err := decodeJSON[T](where, data, newest)
	return value, err
}

func decodeJSON[T any](where string, data []byte, newest int) (value T, format int, err error) {
	if len(data) == 0 {
		return value, 0, nil
	}
	if isObject(data) {
		var head struct {
			Format int `json:"format"`
		}
		if err := json.Unmarshal(data, &head); err != nil {
			return value, 0, fmt.Errorf("record %s: %w", where, err)
		}
		if head.Format > newest {
			return value, head.Format, fmt.Errorf("record %s: %w: format %d, this version reads up to %d; upgrade this node",
				where, ErrNewer, head.Format, newest)
		}
		format = head.Format
	}
	var decoded T
	if err := json.Unmarshal(data, &decoded); err != nil {
		return value, format, fmt.Errorf("record %s: %w", where, err)
	}
	return decoded, format, nil
}

// isObject reports whether JSON data is an object, if it is JSON at all.
func isObject(data []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) }
