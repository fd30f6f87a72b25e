/**
 * Where the emergency cache keeps its entries: in memory, in any `KeyValueStore` (files, SQL), or in any `Persistence` (SQL, Redis).
 *
 * A store knows nothing of answers. It keeps texts under addresses, forgets them when they expire or when there is no room, and forgets all
 * of a scope or a subject when told so. It may fail and may lose what it holds: nothing in it is the only copy of anything.
 *
 * | layer                 | survives a restart | shared between processes | bounds                                    |
 * | --------------------- | ------------------ | ------------------------ | ----------------------------------------- |
 * | {@link layerMemory}   | no                 | no                       | exact                                     |
 * | {@link layerKeyValueStore} | yes           | yes                      | what this process stored or found at start |
 * | {@link layerPersistence}   | yes           | yes                      | what this process stored, and expiry      |
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as KeyValueStore from "effect/persistence/KeyValueStore"
import * as Persistence from "effect/persistence/Persistence"
import * as Schema from "effect/Schema"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as CacheKey from "./CacheKey.ts"
import * as Shelf from "./internal/cacheShelf.ts"
import { within } from "./internal/within.ts"

/**
 * What a store holds.
 *
 * **Details**
 *
 * `bytes` is an estimate from above. `evicted` counts what had to go for lack of room since the layer was built.
 *
 * @category models
 * @since 0.1.0
 */
export interface Statistics {
  readonly entries: number
  readonly bytes: number
  readonly scopes: number
  readonly evicted: number
}

/**
 * Service that keeps texts under addresses.
 *
 * **Details**
 *
 * - `get` returns what is there. `set` puts something there until `expiresAt`, in milliseconds since 1970, and returns what had to go for it.
 * - `removeAll` removes everything of a scope, or of one subject of it, and returns what it knows to have been there.
 *
 * @category services
 * @since 0.1.0
 */
export class CacheStore extends Context.Service<
  CacheStore,
  {
    readonly get: (address: CacheKey.Address) => Effect.Effect<string | undefined, CacheStoreError>
    readonly set: (
      address: CacheKey.Address,
      entry: string,
      expiresAt: number
    ) => Effect.Effect<ReadonlyArray<CacheKey.Address>, CacheStoreError>
    readonly remove: (address: CacheKey.Address) => Effect.Effect<void, CacheStoreError>
    readonly removeAll: (
      scope: string,
      subject?: string
    ) => Effect.Effect<ReadonlyArray<CacheKey.Address>, CacheStoreError>
    readonly statistics: Effect.Effect<Statistics>
  }
>()("@llm-resilience/core/CacheStore") {}

/**
 * Error raised when a store could not do what it was asked. The emergency cache reports it and goes on without.
 *
 * @category errors
 * @since 0.1.0
 */
export class CacheStoreError extends Schema.TaggedError<CacheStoreError>(
  "@llm-resilience/core/CacheStore/CacheStoreError"
)("CacheStoreError", {
  operation: Schema.Literals(["get", "set", "remove"]),
  cause: Schema.Defect()
}) {
  override readonly message = "The store of the emergency cache failed"
}

/**
 * How much a store keeps.
 *
 * **Details**
 *
 * - `maxEntries`: 10 000 by default. `maxBytes`: 64 MiB by default.
 * - `maxEntriesPerScope`, `maxBytesPerScope`: the quota of one scope; by default all there is.
 *
 * When the store is full, the scope that takes most gives way, its least recently used entry first. So a scope that takes no more than its
 * fair share is never evicted for another, whatever the quota.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly maxEntries?: number | undefined
  readonly maxBytes?: number | undefined
  readonly maxEntriesPerScope?: number | undefined
  readonly maxBytesPerScope?: number | undefined
}

const boundsOf = (options: Options | undefined): Shelf.Bounds => {
  const maxEntries = options?.maxEntries ?? 10_000
  const maxBytes = options?.maxBytes ?? 64 * 1024 * 1024
  const bounds = {
    maxEntries,
    maxBytes,
    maxEntriesPerScope: options?.maxEntriesPerScope ?? maxEntries,
    maxBytesPerScope: options?.maxBytesPerScope ?? maxBytes
  }
  for (const [name, value] of Object.entries(bounds)) {
    if (!Number.isInteger(value) || value < 1) {
      throw new RangeError(`CacheStore: ${name} must be an integer >= 1, got ${value}`)
    }
  }
  return bounds
}

// Two bytes for a character of a text that is not Latin, and what the maps around it take.
const weight = (entry: string): number => 2 * entry.length + 512

const sweepEvery = Duration.minutes(5)

const removeWithin = 10_000

const tooLong = () => Effect.fail("It took too long")

/**
 * Layer that keeps entries in the memory of this process.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory = (options?: Options): Layer.Layer<CacheStore> => {
  const bounds = boundsOf(options)
  return Layer.effect(
    CacheStore,
    Effect.gen(function* () {
      const shelf = Shelf.make<{ readonly entry: string; readonly expiresAt: number }>(bounds)
      let evicted = 0
      yield* sweeping(shelf, () => Effect.void)
      return CacheStore.of({
        get: (address) =>
          Clock.clockWith((clock) => {
            const found = shelf.get(address)
            if (found === undefined || found.expiresAt > clock.currentTimeMillisUnsafe())
              return Effect.succeed(found?.entry)
            shelf.remove(address)
            return Effect.undefined
          }),
        set: (address, entry, expiresAt) =>
          Effect.sync(() => {
            const gone = shelf.put(address, { entry, expiresAt }, weight(entry), expiresAt)
            evicted += gone.length
            return gone
          }),
        remove: (address) => Effect.sync(() => void shelf.remove(address)),
        removeAll: (scope, subject) => Effect.sync(() => shelf.removeAll(scope, subject)),
        statistics: Effect.sync(() => ({ ...shelf.size(), evicted }))
      })
    })
  )
}

// What expired and is never asked for again must go as well: it may be personal. Not all at once, because others wait.
const sweep = <E>(
  shelf: Pick<Shelf.Shelf<never>, "removeExpired">,
  drop: (addresses: ReadonlyArray<CacheKey.Address>) => Effect.Effect<void, E>
) =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => {
    const some: Effect.Effect<void, E> = Effect.suspend(() => {
      const gone = shelf.removeExpired(now)
      return Effect.andThen(drop(gone), gone.length === 0 ? Effect.void : Effect.andThen(Effect.yieldNow, some))
    })
    return some
  })

// Whatever it dies of once, it comes again.
const sweeping = <E>(
  shelf: Pick<Shelf.Shelf<never>, "removeExpired">,
  drop: (addresses: ReadonlyArray<CacheKey.Address>) => Effect.Effect<void, E>
) =>
  Effect.forkScoped(Effect.repeat(Effect.ignoreCause(Effect.delay(sweep(shelf, drop), sweepEvery)), Schedule.forever))

// An entry with what the store itself has to know about it.
const Envelope = Schema.Struct({ expiresAt: Schema.Finite, entry: Schema.String })
const decodeEnvelope = Schema.decodeEffect(Schema.fromJsonString(Envelope))
const encodeEnvelope = ({ entry, expiresAt }: typeof Envelope.Type): string => JSON.stringify({ expiresAt, entry })

const failed = (operation: CacheStoreError["operation"]) => (cause: unknown) =>
  new CacheStoreError({ operation, cause })

/**
 * Layer that keeps entries in a `KeyValueStore`: files, SQL, or one of your own.
 *
 * **Details**
 *
 * Keys begin with `prefix`, `llm-resilience/cache/` by default. Bounds hold for what this process stored and what it found when it started,
 * which it reads in the background. What expired is removed every five minutes. Removing a scope or a subject removes all of it, whoever
 * stored it.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerKeyValueStore = (
  options?: Options & { readonly prefix?: string | undefined }
): Layer.Layer<CacheStore, never, KeyValueStore.KeyValueStore> => {
  const bounds = boundsOf(options)
  const prefix = options?.prefix ?? "llm-resilience/cache/"
  return Layer.effect(
    CacheStore,
    Effect.gen(function* () {
      const store = KeyValueStore.prefix(yield* KeyValueStore.KeyValueStore, prefix)
      const shelf = Shelf.make<true>(bounds)
      let evicted = 0
      const writing = new Set<string>()

      // What is to go and could not be removed yet is tried again, until it is gone or written anew.
      const going = new Set<string>()
      const erase = (key: string) =>
        Effect.suspend(() => {
          going.add(key)
          const removing = Effect.suspend(() => store.remove(key))
          return Effect.map(within(removing, removeWithin, tooLong, 0), () => void going.delete(key))
        })
      const drop = (addresses: ReadonlyArray<CacheKey.Address>) =>
        Effect.suspend(() => {
          for (const address of addresses) going.add(CacheKey.format(address))
          return Effect.forEach(Array.from(going), (key) => (going.has(key) ? erase(key) : Effect.void), {
            discard: true
          })
        })
      const note = (address: CacheKey.Address, { entry, expiresAt }: typeof Envelope.Type) =>
        Effect.suspend(() => {
          const gone = shelf.put(address, true, weight(entry), expiresAt)
          evicted += gone.length
          return Effect.as(drop(gone), gone)
        })
      const found = Effect.fnUntraced(function* (key: string) {
        const address = CacheKey.parse(key)
        const text = address === undefined ? undefined : yield* store.get(key)
        if (address === undefined || text === undefined) return
        const envelope = yield* Effect.option(decodeEnvelope(text))
        const now = yield* Clock.currentTimeMillis
        // What is being written just now may be read half, and what was written meanwhile is known already.
        if (writing.has(key) || shelf.get(address) !== undefined) return
        if (envelope._tag === "None" || envelope.value.expiresAt <= now) return yield* store.remove(key)
        yield* note(address, envelope.value)
      })
      yield* Effect.forkScoped(
        Effect.ignore(Effect.flatMap(store.keys, (keys) => Effect.forEach(keys, (key) => Effect.ignore(found(key)))))
      )
      yield* sweeping(shelf, drop)

      return CacheStore.of({
        get: Effect.fnUntraced(function* (address) {
          const key = CacheKey.format(address)
          const text = yield* Effect.mapError(store.get(key), failed("get"))
          if (text === undefined) return undefined
          const envelope = yield* decodeEnvelope(text).pipe(
            // What is being written just now may be read half.
            Effect.tapError(() => (writing.has(key) ? Effect.void : Effect.ignore(store.remove(key)))),
            Effect.mapError(failed("get"))
          )
          if (envelope.expiresAt <= (yield* Clock.currentTimeMillis)) return undefined
          shelf.get(address)
          return envelope.entry
        }),
        set: (address, entry, expiresAt) =>
          Effect.suspend(() => {
            const key = CacheKey.format(address)
            writing.add(key)
            going.delete(key)
            return Effect.andThen(
              store.set(key, encodeEnvelope({ expiresAt, entry })),
              note(address, { expiresAt, entry })
            ).pipe(Effect.mapError(failed("set")), Effect.ensuring(Effect.sync(() => writing.delete(key))))
          }),
        remove: (address) =>
          Effect.mapError(
            Effect.suspend(() => {
              shelf.remove(address)
              return erase(CacheKey.format(address))
            }),
            failed("remove")
          ),
        removeAll: (scope, subject) =>
          Effect.mapError(
            Effect.suspend(() => {
              const known = shelf.removeAll(scope, subject)
              return Effect.as(store.clearPrefix(subject === undefined ? `${scope}/` : `${scope}/${subject}/`), known)
            }),
            failed("remove")
          ),
        statistics: Effect.sync(() => ({ ...shelf.size(), evicted }))
      })
    })
  )
}

/**
 * Layer that keeps entries in a `Persistence`: SQL or Redis, shared by many processes.
 *
 * **Details**
 *
 * `storeId` is the name of the store within it, `llm-resilience-cache` by default. Entries expire there by themselves. Such a store cannot
 * list what it holds, so bounds hold for what this process stored. Removing a scope or a subject leaves a mark that is read along with
 * every entry: what was stored before it is not found any more, whoever stored it. What this process stored is erased at once, the rest when
 * it is asked for or expires.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerPersistence = (
  options?: Options & { readonly storeId?: string | undefined }
): Layer.Layer<CacheStore, never, Persistence.BackingPersistence> => {
  const bounds = boundsOf(options)
  const storeId = options?.storeId ?? "llm-resilience-cache"
  return Layer.effect(
    CacheStore,
    Effect.gen(function* () {
      const persistence = yield* Persistence.BackingPersistence
      const scope = yield* Effect.scope
      const shelf = Shelf.make<true>(bounds)
      let evicted = 0
      let opened: Persistence.BackingPersistenceStore | undefined
      // Opened at first use, and again when that failed: a database that is late does not stop the application from starting.
      const store = Effect.suspend(() =>
        opened !== undefined
          ? Effect.succeed(opened)
          : Effect.tap(Scope.provide(persistence.make(storeId), scope), (store) =>
              Effect.sync(() => {
                opened = store
              })
            )
      )
      const asked = <A>(
        operation: CacheStoreError["operation"],
        use: (store: Persistence.BackingPersistenceStore) => Effect.Effect<A, unknown>
      ): Effect.Effect<A, CacheStoreError> =>
        // Some of these stores die of a broken connection.
        Effect.catchDefect(Effect.mapError(Effect.flatMap(store, use), failed(operation)), (cause) =>
          Effect.fail(failed(operation)(cause))
        )
      const drop = (store: Persistence.BackingPersistenceStore, addresses: ReadonlyArray<CacheKey.Address>) =>
        Effect.forEach(addresses, (address) => store.remove(CacheKey.format(address)), { discard: true })

      return CacheStore.of({
        get: (address) =>
          asked("get", (store) =>
            Effect.gen(function* () {
              const key = CacheKey.format(address)
              const [found, ...marks] = yield* store.getMany([
                key,
                markOf(address.scope),
                markOf(address.scope, address.subject)
              ])
              if (found === undefined) return undefined
              const { at, entry } = yield* decodeStored(found)
              for (const mark of marks) {
                if (mark !== undefined && (yield* decodeMark(mark)).at >= at) {
                  yield* store.remove(key)
                  return undefined
                }
              }
              shelf.get(address)
              return entry
            })
          ),
        set: (address, entry, expiresAt) =>
          asked("set", (store) =>
            Effect.gen(function* () {
              const at = yield* Clock.currentTimeMillis
              const stored = { at, entry }
              yield* store.set(CacheKey.format(address), stored, Duration.millis(Math.max(1, expiresAt - at)))
              const gone = shelf.put(address, true, weight(entry), expiresAt)
              evicted += gone.length
              yield* drop(store, gone)
              return gone
            })
          ),
        remove: (address) =>
          asked("remove", (store) => {
            shelf.remove(address)
            return store.remove(CacheKey.format(address))
          }),
        removeAll: (scope, subject) =>
          asked("remove", (store) =>
            Effect.gen(function* () {
              const mark = { at: yield* Clock.currentTimeMillis }
              yield* store.set(markOf(scope, subject), mark, markLifetime)
              const known = shelf.removeAll(scope, subject)
              yield* drop(store, known)
              return known
            })
          ),
        statistics: Effect.gen(function* () {
          yield* sweep(shelf, () => Effect.void)
          return { ...shelf.size(), evicted }
        })
      })
    })
  )
}

const markOf = (scope: string, subject?: string): string =>
  subject === undefined ? `removed/${scope}` : `removed/${scope}/${subject}`

// Longer than any entry lives: no answer is served after a week.
const markLifetime = Duration.days(8)

const decodeStored = Schema.decodeUnknownEffect(Schema.Struct({ at: Schema.Finite, entry: Schema.String }))
const decodeMark = Schema.decodeUnknownEffect(Schema.Struct({ at: Schema.Finite }))
