"""Whose records learning leaves out."""

from schemas.audits import Audit
from schemas.labels import Label
from schemas.tickets import TicketId
from tests.records import AT, a_decision, a_ticket, an_attempt
from workers.learning.forgetting import Suppressed, customer_digest
from workers.learning.provenance import ticket_digest


def test_a_ticket_is_left_out_by_its_customer_or_by_its_name() -> None:
    """Each alone will do: an archive brings tickets that nobody knew, a label says no customer."""
    by_customer = Suppressed(customers={customer_digest("default", "c7")})
    by_ticket = Suppressed(tickets={ticket_digest(("default", "t1"))})
    theirs = a_ticket(ticket_id=TicketId("t1"), customer_id="c7")
    audit = Audit(ticket=theirs, decision=a_decision(), draft=an_attempt(), at=AT)
    label = Label(ticket_id=TicketId("t1"), category="x", acceptable=True, source="judge", propensity=1.0, at=AT)
    assert [by_customer.holds(each) for each in (theirs, audit, label)] == [True, True, False]
    assert [by_ticket.holds(each) for each in (theirs, audit, label)] == [True, True, True]


def test_nobody_else_is_left_out() -> None:
    """Neither the same id of another tenant, nor tickets without a customer, nor a list that is empty."""
    listed = Suppressed({customer_digest("default", "c7"), customer_digest("default", "")}, set())
    others = [
        a_ticket(customer_id="c7", tenant="another"),
        a_ticket(customer_id="c8"),
        a_ticket(),
    ]
    assert not any(listed.holds(each) for each in others)
    assert not Suppressed().holds(a_ticket(customer_id="c7"))


def test_a_digest_tells_where_the_tenant_ends() -> None:
    """Else two customers would have one."""
    assert customer_digest("a", "bc") != customer_digest("ab", "c")
