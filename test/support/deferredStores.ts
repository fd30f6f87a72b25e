/** What every store of the deferred queue must do. */
import { assert, describe, it } from "@effect/vitest"
import { DeferredStore } from "@llm-resilience/core"
import { Effect, type Layer } from "effect"

/** A kind of store. Each layer for a new table is an empty store. */
export interface Kind<E = never> {
  readonly name: string
  readonly layer: (table: string) => Layer.Layer<DeferredStore.DeferredStore, E>
}

type Store = DeferredStore.DeferredStore["Service"]

/** Times as they are in production, beyond 32 bits. */
const now = Date.UTC(2030, 0, 1)
const hour = 3_600_000

/** An entry that is due. */
export const entryOf = (ticket: string, more?: Partial<DeferredStore.Entry>): DeferredStore.Entry => ({
  ticket,
  key: undefined,
  scope: undefined,
  priority: 0,
  request: `{"ask":"${ticket}"}`,
  acceptedAt: now,
  expiresAt: now + hour,
  ...more
})

let tables = 0
/** The name of a table that nobody has used. */
export const newTable = () => `deferred_${tables++}`

/** Runs what every store must pass. */
export const conforms = <E>({ layer, name }: Kind<E>): void => {
  const over = <A, E1>(use: (store: Store) => Effect.Effect<A, E1>) =>
    Effect.suspend(() => Effect.flatMap(DeferredStore.DeferredStore, use).pipe(Effect.provide(layer(newTable()))))
  const insertAll = (store: Store, entries: ReadonlyArray<DeferredStore.Entry>) =>
    Effect.forEach(entries, (entry) => store.insert(entry, 1000), { discard: true })
  const claiming = (store: Store, owner = "me", at = now) => store.claim({ owner, now: at, leaseUntil: at + 1000 })
  const done = { now, state: "answered", result: "Paris.", note: undefined } as const

  describe(`the deferred store over ${name}`, () => {
    it.effect("keeps an entry as it is", () =>
      over((store) =>
        Effect.gen(function* () {
          const entry = entryOf("one", {
            key: "'; DROP TABLE x; --",
            scope: '日本語 🙂 \n\t"\\',
            priority: -7,
            request: "x".repeat(100_000)
          })
          assert.deepStrictEqual(yield* store.insert(entry, 10), { _tag: "Inserted" })
          assert.deepStrictEqual(yield* store.find("one"), {
            ...entry,
            state: "queued",
            claim: 0,
            attempts: 0,
            result: undefined,
            note: undefined
          })
          assert.isUndefined(yield* store.find("two"))
        })
      )
    )

    it.effect("knows a key again, and is full at its capacity", () =>
      over((store) =>
        Effect.gen(function* () {
          const insert = (ticket: string, key?: string) => store.insert(entryOf(ticket, { key }), 2)
          assert.strictEqual((yield* insert("one", "k"))._tag, "Inserted")
          assert.deepStrictEqual(yield* insert("two", "k"), { _tag: "Duplicate", ticket: "one" })
          assert.strictEqual((yield* insert("three"))._tag, "Inserted")
          assert.strictEqual((yield* insert("four"))._tag, "Full")
          assert.strictEqual((yield* insert("five", "l"))._tag, "Full")
          assert.deepStrictEqual(yield* insert("six", "k"), { _tag: "Duplicate", ticket: "one" })
          assert.deepStrictEqual(yield* store.counts, { queued: 2, running: 0 })
          yield* claiming(store)
          assert.strictEqual((yield* insert("seven"))._tag, "Full")
          assert.deepStrictEqual(yield* store.counts, { queued: 1, running: 1 })
        })
      )
    )

    it.effect("hands out the highest priority first, then the oldest, and nothing that is not due", () =>
      over((store) =>
        Effect.gen(function* () {
          yield* insertAll(store, [
            entryOf("low", { priority: -1, acceptedAt: now - 9 }),
            entryOf("older", { acceptedAt: now - 6 }),
            entryOf("first", { acceptedAt: now - 5 }),
            entryOf("second", { acceptedAt: now - 5 }),
            entryOf("high", { priority: 5 }),
            entryOf("later", { priority: 9, acceptedAt: now + 1 }),
            entryOf("overdue", { priority: 9, expiresAt: now })
          ])
          const claimed = yield* Effect.forEach(Array.from({ length: 6 }), () => claiming(store))
          assert.deepStrictEqual(
            claimed.map((row) => row?.ticket),
            ["high", "older", "first", "second", "low", undefined]
          )
          assert.deepInclude(claimed[0], { state: "running", claim: 1, attempts: 1, acceptedAt: now })
        })
      )
    )

    it.effect("claims again what its holder left behind, who then changes nothing", () =>
      over((store) =>
        Effect.gen(function* () {
          yield* store.insert(entryOf("one"), 10)
          yield* claiming(store, "a")
          yield* store.renew({ owner: "b", tickets: ["one"], leaseUntil: now + 9000 })
          yield* store.renew({ owner: "a", tickets: ["one", "none"], leaseUntil: now + 2000 })
          yield* store.renew({ owner: "a", tickets: ["none"], leaseUntil: now + 9000 })
          assert.isUndefined(yield* claiming(store, "b", now + 1999))
          const again = yield* claiming(store, "b", now + 2000)
          assert.deepInclude(again, { ticket: "one", claim: 2, attempts: 2 })

          assert.isFalse(yield* store.settle({ ticket: "one", claim: 1, ...done }))
          const stale = { ticket: "one", claim: 1, visibleAt: now, refund: true, note: undefined }
          assert.isFalse(yield* store.release(stale))
          assert.isTrue(yield* store.settle({ ticket: "one", claim: 2, ...done }))
          assert.isFalse(yield* store.settle({ ticket: "one", claim: 2, ...done }))
          assert.isFalse(yield* store.cancel({ ticket: "one", now }))
          assert.deepInclude(yield* store.find("one"), { state: "answered", result: "Paris.", request: "" })
        })
      )
    )

    it.effect("takes a claim back", () =>
      over((store) =>
        Effect.gen(function* () {
          yield* store.insert(entryOf("one"), 10)
          const release = { ticket: "one", visibleAt: now + 500 }
          yield* claiming(store)
          assert.isTrue(yield* store.release({ ...release, claim: 1, refund: true, note: undefined }))
          assert.deepInclude(yield* store.find("one"), { state: "queued", attempts: 0, note: undefined })
          assert.isUndefined(yield* claiming(store, "me", now + 499))
          yield* claiming(store, "me", now + 500)
          assert.isTrue(yield* store.release({ ...release, claim: 2, refund: false, note: "500" }))
          assert.deepInclude(yield* store.find("one"), { state: "queued", attempts: 1, note: "500" })
        })
      )
    )

    it.effect("keeps the question of the dead, who can be queued again", () =>
      over((store) =>
        Effect.gen(function* () {
          yield* store.insert(entryOf("one"), 10)
          yield* claiming(store)
          const requeue = store.requeue({ ticket: "one", now: now + 1, expiresAt: now + 2 * hour })
          assert.isFalse(yield* requeue)
          yield* store.settle({ ticket: "one", claim: 1, now, state: "dead", result: undefined, note: "400" })
          const [dead] = yield* store.dead(5)
          assert.deepInclude(dead, { ticket: "one", state: "dead", note: "400", request: entryOf("one").request })
          assert.deepStrictEqual(yield* store.dead(0), [])
          assert.isTrue(yield* requeue)
          assert.isUndefined(yield* claiming(store))
          const again = yield* claiming(store, "me", now + 1)
          assert.deepInclude(again, { attempts: 1, claim: 2, expiresAt: now + 2 * hour, note: undefined })
        })
      )
    )

    it.effect("ends what is overdue and held by nobody", () =>
      over((store) =>
        Effect.gen(function* () {
          const soon = { expiresAt: now + 100 }
          yield* insertAll(store, [entryOf("held", { ...soon, priority: 1 }), entryOf("one", soon), entryOf("two")])
          yield* claiming(store)
          assert.deepStrictEqual(yield* store.expire(now + 99), [])
          assert.deepStrictEqual(yield* store.expire(now + 100), ["one"])
          assert.deepStrictEqual(yield* store.expire(now + 1000), ["held"])
          assert.deepStrictEqual(yield* store.expire(now + 1000), [])
          assert.deepInclude(yield* store.find("one"), { state: "expired", request: "" })
          assert.isTrue(yield* store.cancel({ ticket: "two", now }))
          assert.deepStrictEqual(yield* store.counts, { queued: 0, running: 0 })
        })
      )
    )

    it.effect("leads every result to a handler until one was done with it", () =>
      over((store) =>
        Effect.gen(function* () {
          yield* insertAll(store, [entryOf("one"), entryOf("two")])
          const deliver = (owner: string, at: number) =>
            Effect.map(store.claimDelivery({ owner, now: at, leaseUntil: at + 100 }), (row) => row?.ticket)
          assert.isUndefined(yield* deliver("a", now))
          yield* store.cancel({ ticket: "two", now })
          yield* store.cancel({ ticket: "one", now: now + 1 })
          assert.deepStrictEqual(
            [yield* deliver("a", now + 1), yield* deliver("b", now + 1), yield* deliver("c", now + 1)],
            ["two", "one", undefined]
          )
          yield* store.endDelivery({ owner: "a", ticket: "two", retryAt: now + 50 })
          yield* store.endDelivery({ owner: "a", ticket: "one", retryAt: undefined })
          assert.isUndefined(yield* deliver("c", now + 49))
          assert.strictEqual(yield* deliver("c", now + 50), "two")
          yield* store.endDelivery({ owner: "c", ticket: "two", retryAt: undefined })
          assert.strictEqual(yield* deliver("d", now + 101), "one")
          yield* store.endDelivery({ owner: "d", ticket: "one", retryAt: undefined })
          assert.isUndefined(yield* deliver("e", now + hour))
        })
      )
    )

    it.effect("does not take the end of a delivery for that of the request, which was queued again meanwhile", () =>
      over((store) =>
        Effect.gen(function* () {
          yield* store.insert(entryOf("one"), 10)
          yield* claiming(store)
          yield* store.settle({ ticket: "one", claim: 1, now, state: "dead", result: undefined, note: "400" })
          yield* store.claimDelivery({ owner: "me", now, leaseUntil: now + 1000 })
          yield* store.requeue({ ticket: "one", now, expiresAt: now + hour })
          yield* claiming(store)
          yield* store.endDelivery({ owner: "me", ticket: "one", retryAt: undefined })
          assert.isUndefined(yield* claiming(store, "you"))
          yield* store.renew({ owner: "me", tickets: ["one"], leaseUntil: now + 2000 })
          assert.isUndefined(yield* claiming(store, "you", now + 1999))
        })
      )
    )

    it.effect("forgets what ended long ago, and the oldest beyond a number", () =>
      over((store) =>
        Effect.gen(function* () {
          const tickets = ["a", "b", "c", "d", "e"]
          for (const [index, ticket] of tickets.entries()) {
            yield* store.insert(entryOf(ticket), 10)
            if (ticket !== "e") yield* store.cancel({ ticket, now: now + index })
          }
          const left = Effect.map(
            Effect.forEach(tickets, (ticket) => store.find(ticket)),
            (rows) => rows.flatMap((row) => row?.ticket ?? [])
          )
          yield* store.prune({ before: now + 1, keep: 10 })
          assert.deepStrictEqual(yield* left, ["b", "c", "d", "e"])
          yield* store.prune({ before: now, keep: 2 })
          assert.deepStrictEqual(yield* left, ["c", "d", "e"])
        })
      )
    )

    it.effect("keeps as many as it may of those that ended at the same moment", () =>
      over((store) =>
        Effect.gen(function* () {
          yield* insertAll(
            store,
            ["a", "b", "c"].map((ticket) => entryOf(ticket, { expiresAt: now + 1 }))
          )
          yield* store.expire(now + 1)
          yield* store.prune({ before: now, keep: 2 })
          const left = yield* Effect.forEach(["a", "b", "c"], (ticket) => store.find(ticket))
          assert.lengthOf(
            left.filter((row) => row !== undefined),
            2
          )
        })
      )
    )
  })
}
