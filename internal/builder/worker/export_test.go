package worker

// JoinUnified is for a test on a kernel that has some controller in the hierarchy of version 2.
var JoinUnified = joinUnified
