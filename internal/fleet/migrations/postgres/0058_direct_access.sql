-- +goose Up

-- Who may act on which fleet, at whatever level: administrators of the organization, and members of the fleet or of a team that
-- has access to it. Public fleets and support grants are not in it: clients ask by it for the fleets that are theirs.
DROP VIEW user__has_direct_access_to__application;
CREATE VIEW user__has_direct_access_to__application AS
SELECT m."user" * 4294967296 + a.id AS id, m."user" AS "user", a.id AS has_direct_access_to__application
FROM application AS a
JOIN organization_membership AS m ON m.is_member_of__organization = a.organization AND m.organization_membership_role = 1
UNION
SELECT m."user" * 4294967296 + m.is_member_of__application, m."user", m.is_member_of__application
FROM user_application_membership AS m
UNION
SELECT m."user" * 4294967296 + g.grants_access_to__application, m."user", g.grants_access_to__application
FROM team_membership AS m JOIN team_application_access AS g ON g.team = m.is_member_of__team;

-- The fleets that are open to support are found without looking at the others.
CREATE INDEX application_support ON application (is_accessible_by_support_until__date);
