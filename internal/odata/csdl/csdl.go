// Package csdl writes metadata documents of OData 4.01 (the XML form of the Common Schema Definition Language), as far as ours go:
// entity types with their keys, properties and navigations, and the sets that they are found in.
package csdl

import (
	"bytes"
	"encoding/xml"
)

// Namespace is that of every type of a document.
const Namespace = "Roadstead"

// Document is a whole metadata document.
type Document struct {
	XMLName xml.Name `xml:"edmx:Edmx"`
	NS      string   `xml:"xmlns:edmx,attr"`
	Version string   `xml:"Version,attr"`
	Schema  schema   `xml:"edmx:DataServices>Schema"`
}

type schema struct {
	NS        string    `xml:"xmlns,attr"`
	Namespace string    `xml:"Namespace,attr"`
	Types     []*Entity `xml:"EntityType"`
	Container container `xml:"EntityContainer"`
}

type container struct {
	Name string `xml:"Name,attr"`
	Sets []set  `xml:"EntitySet"`
}

type set struct {
	Name string `xml:"Name,attr"`
	Type string `xml:"EntityType,attr"`
}

// Entity is the type of a resource's rows; its key is "id".
type Entity struct {
	Name        string     `xml:"Name,attr"`
	Key         keyRef     `xml:"Key>PropertyRef"`
	Properties  []property `xml:"Property"`
	Navigations []property `xml:"NavigationProperty"`
}

type keyRef struct {
	Name string `xml:"Name,attr"`
}

type property struct {
	Name     string `xml:"Name,attr"`
	Type     string `xml:"Type,attr"`
	Nullable *bool  `xml:"Nullable,attr,omitempty"` // never of a collection
}

// New makes a document without types.
func New() *Document {
	return &Document{NS: "http://docs.oasis-open.org/odata/ns/edmx", Version: "4.01", Schema: schema{
		NS: "http://docs.oasis-open.org/odata/ns/edm", Namespace: Namespace, Container: container{Name: "Container"},
	}}
}

// Entity adds a type, whose rows are found under each of the names; the first one is the type's.
func (d *Document) Entity(names ...string) *Entity {
	e := &Entity{Name: names[0], Key: keyRef{"id"}}
	d.Schema.Types = append(d.Schema.Types, e)
	for _, n := range names {
		d.Schema.Container.Sets = append(d.Schema.Container.Sets, set{n, Namespace + "." + e.Name})
	}
	return e
}

// Property adds a plain property, of a type such as Edm.String.
func (e *Entity) Property(name, edmType string, null bool) {
	e.Properties = append(e.Properties, property{name, edmType, &null})
}

// One adds a link to one row, Many one to any number.
func (e *Entity) One(name, to string, null bool) {
	e.Navigations = append(e.Navigations, property{name, Namespace + "." + to, &null})
}

// Many adds a link to any number of rows.
func (e *Entity) Many(name, to string) {
	e.Navigations = append(e.Navigations, property{name, "Collection(" + Namespace + "." + to + ")", nil})
}

// Empty reports whether there is no type.
func (d *Document) Empty() bool { return len(d.Schema.Types) == 0 }

// Encode writes the XML.
func (d *Document) Encode() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(xml.Header)
	enc := xml.NewEncoder(&b)
	enc.Indent("", " ")
	if err := enc.Encode(d); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}
