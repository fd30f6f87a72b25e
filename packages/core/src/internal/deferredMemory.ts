import * as Effect from "effect/Effect"
import type { DeferredStore, Final, Inserted, Row } from "../DeferredStore.ts"

interface Held {
  row: Row
  readonly ordinal: number
  owner: string | undefined
  visibleAt: number
  leaseUntil: number
  settledAt: number
  delivered: boolean
}

/** A deferred store in memory. */
export const make = (): DeferredStore["Service"] => {
  const pending = new Map<string, Held>()
  // In the order in which they were settled.
  const settled = new Map<string, Held>()
  const keys = new Map<string, string>()
  let ordinal = 0

  const end = (held: Held, state: Final, now: number, result?: string, note?: string): void => {
    const { request } = held.row
    held.row = { ...held.row, state, result, note, request: state === "dead" ? request : "" }
    held.owner = undefined
    held.leaseUntil = 0
    held.settledAt = now
    held.delivered = false
    pending.delete(held.row.ticket)
    settled.set(held.row.ticket, held)
  }
  const claimed = (ticket: string, claim: number): Held | undefined => {
    const held = pending.get(ticket)
    return held?.row.state === "running" && held.row.claim === claim ? held : undefined
  }
  const forget = (held: Held): void => {
    settled.delete(held.row.ticket)
    if (held.row.key !== undefined) keys.delete(held.row.key)
  }

  return {
    insert: (entry, capacity) =>
      Effect.sync((): Inserted => {
        const known = entry.key === undefined ? undefined : keys.get(entry.key)
        if (known !== undefined) return { _tag: "Duplicate", ticket: known }
        if (pending.size >= capacity) return { _tag: "Full" }
        if (entry.key !== undefined) keys.set(entry.key, entry.ticket)
        pending.set(entry.ticket, {
          row: { ...entry, state: "queued", claim: 0, attempts: 0, result: undefined, note: undefined },
          ordinal: ordinal++,
          owner: undefined,
          visibleAt: entry.acceptedAt,
          leaseUntil: 0,
          settledAt: 0,
          delivered: false
        })
        return { _tag: "Inserted" }
      }),
    claim: ({ leaseUntil, now, owner }) =>
      Effect.sync(() => {
        let best: Held | undefined
        for (const held of pending.values()) {
          const due = held.row.state === "queued" ? held.visibleAt <= now : held.leaseUntil <= now
          if (!due || held.row.expiresAt <= now) continue
          const ahead =
            best === undefined ||
            held.row.priority > best.row.priority ||
            (held.row.priority === best.row.priority && held.ordinal < best.ordinal)
          if (ahead) best = held
        }
        if (best === undefined) return undefined
        best.row = { ...best.row, state: "running", claim: best.row.claim + 1, attempts: best.row.attempts + 1 }
        best.owner = owner
        best.leaseUntil = leaseUntil
        return best.row
      }),
    renew: ({ leaseUntil, owner, tickets }) =>
      Effect.sync(() => {
        for (const ticket of tickets) {
          const held = pending.get(ticket) ?? settled.get(ticket)
          if (held?.owner === owner) held.leaseUntil = leaseUntil
        }
      }),
    release: ({ claim, note, refund, ticket, visibleAt }) =>
      Effect.sync(() => {
        const held = claimed(ticket, claim)
        if (held === undefined) return false
        held.row = { ...held.row, state: "queued", attempts: held.row.attempts - (refund ? 1 : 0), note }
        held.owner = undefined
        held.leaseUntil = 0
        held.visibleAt = visibleAt
        return true
      }),
    settle: ({ claim, note, now, result, state, ticket }) =>
      Effect.sync(() => {
        const held = claimed(ticket, claim)
        if (held !== undefined) end(held, state, now, result, note)
        return held !== undefined
      }),
    cancel: ({ now, ticket }) =>
      Effect.sync(() => {
        const held = pending.get(ticket)
        if (held !== undefined) end(held, "cancelled", now)
        return held !== undefined
      }),
    expire: (now) =>
      Effect.sync(() => {
        const overdue = Array.from(pending.values()).filter(
          (held) => held.row.expiresAt <= now && (held.row.state === "queued" || held.leaseUntil <= now)
        )
        for (const held of overdue) end(held, "expired", now)
        return overdue.map((held) => held.row.ticket)
      }),
    find: (ticket) => Effect.sync(() => (pending.get(ticket) ?? settled.get(ticket))?.row),
    counts: Effect.sync(() => {
      let running = 0
      for (const held of pending.values()) if (held.row.state === "running") running++
      return { queued: pending.size - running, running }
    }),
    dead: (limit) =>
      Effect.sync(() =>
        Array.from(settled.values())
          .filter((held) => held.row.state === "dead")
          .slice(0, limit)
          .map((held) => held.row)
      ),
    requeue: ({ expiresAt, now, ticket }) =>
      Effect.sync(() => {
        const held = settled.get(ticket)
        if (held?.row.state !== "dead") return false
        settled.delete(ticket)
        held.row = { ...held.row, state: "queued", attempts: 0, expiresAt, note: undefined }
        held.owner = undefined
        held.visibleAt = now
        pending.set(ticket, held)
        return true
      }),
    claimDelivery: ({ leaseUntil, now, owner }) =>
      Effect.sync(() => {
        for (const held of settled.values()) {
          if (held.delivered || held.leaseUntil > now) continue
          held.owner = owner
          held.leaseUntil = leaseUntil
          return held.row
        }
        return undefined
      }),
    endDelivery: ({ owner, retryAt, ticket }) =>
      Effect.sync(() => {
        const held = settled.get(ticket)
        if (held?.owner !== owner) return
        held.owner = undefined
        held.delivered = retryAt === undefined
        held.leaseUntil = retryAt ?? 0
      }),
    prune: ({ before, keep }) =>
      Effect.sync(() => {
        for (const held of settled.values()) {
          if (held.settledAt >= before && settled.size <= keep) break
          forget(held)
        }
      })
  }
}
