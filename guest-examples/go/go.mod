module guarded_tools

go 1.25

require go.bytecodealliance.org/pkg v0.2.3

// What the bindings need at run time is part of this project: a build asks no network.
replace go.bytecodealliance.org/pkg => ./bindings/pkg
