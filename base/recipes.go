// Package base holds the recipes of the base images that a server can make for itself.
package base

import "embed"

// Recipes has a folder for each base image, the archives that they are made from, and the keys whose signatures count.
//
//go:embed suites.json keys/*.asc */recipe.json */lock.json busybox/applets minimal/applets
var Recipes embed.FS
