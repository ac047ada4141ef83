package demo

import "context"

// Run plays Options.Script and prints its result, or shows the cluster live
// until the key q or the end of ctx. The error is about the demo itself; what
// the cluster did wrong is in the result, which is not OK then. The caller ends
// ctx on an interrupt.
func Run(ctx context.Context, o Options) (Result, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Result{}, err
	}
	if o.Script == "" {
		return show(ctx, o)
	}
	result, err := playScript(ctx, o)
	result.DCS, result.DCSMembers = o.DCS, o.DCSMembers
	if printed := result.write(o.Stdout, o.JSON); err == nil {
		err = printed
	}
	return result, err
}
