import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { assert, describe, it } from "@effect/vitest"
import { DeferredQueue } from "@llm-resilience/core"
import { Effect, Layer } from "effect"
import { storeAt } from "../support/deferredStoreAt.ts"
import * as RedisServer from "../support/redisServer.ts"

const count = 1000

// A seed, so that a failure can be looked at again; the moments of the kills are as random as the machine anyway.
const seed = Number(process.env.CRASH_SEED ?? Math.floor(Math.random() * 2 ** 31))
let state = seed
const random = () => {
  state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7f_ff_ff_ff
  return state / 0x80_00_00_00
}

const lines = (log: string) =>
  readFileSync(log, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => line.split("\t"))

it(`after every SIGKILL each accepted ticket ends exactly one way, in SQLite (seed ${seed})`, () =>
  crashes((directory) => join(directory, "queue.db")))

describe.skipIf(!RedisServer.installed)("with a Redis", () => {
  const port = RedisServer.duringTests()
  it(`after every SIGKILL each accepted ticket ends exactly one way, in Redis (seed ${seed})`, () =>
    crashes(() => `redis:${port()}`))
})
if (!RedisServer.installed) it.skip(`Redis: ${RedisServer.missing}`, () => {})

const crashes = async (databaseIn: (directory: string) => string) => {
  const directory = mkdtempSync(join(tmpdir(), "deferred-"))
  const database = databaseIn(directory)
  const log = join(directory, "log")
  writeFileSync(log, "")
  const worker = join(import.meta.dirname, "../support/deferredWorker.ts")
  const start = () =>
    spawn(process.execPath, ["-C", "@llm-resilience/source", worker, database, log, String(count)], {
      stdio: ["ignore", "inherit", "inherit"]
    })
  try {
    const starts = () => lines(log).filter(([what]) => what === "started").length
    const begun = async (child: ChildProcess, before: number): Promise<void> => {
      if (child.exitCode !== null || starts() > before) return
      await sleep(10)
      return begun(child, before)
    }
    const killed = async (times: number): Promise<number> => {
      if (times === 0) return 0
      const before = starts()
      const child = start()
      const ended = once(child, "exit")
      // The process takes its time to start; the kill is meant for its work.
      await begun(child, before)
      await sleep(random() * 400)
      child.kill("SIGKILL")
      const [code] = await ended
      // On a fast machine the work may be done before all kills are.
      return code === null ? 1 + (await killed(times - 1)) : 0
    }
    const kills = await killed(8)
    assert.isAtLeast(kills, 3)
    const [code] = await once(start(), "exit")
    assert.strictEqual(code, 0)

    const seen = lines(log)
    const accepted = seen.filter(([what]) => what === "accepted")
    const tickets = new Map<string, Set<string>>()
    for (const [, index = "", ticket = ""] of accepted) {
      tickets.set(index, (tickets.get(index) ?? new Set()).add(ticket))
    }
    // The idempotency key gave the same ticket to who asked again after a crash.
    assert.strictEqual(tickets.size, count)
    assert.deepStrictEqual(
      Array.from(tickets.values()).filter((all) => all.size !== 1),
      []
    )

    // Whoever looked, in whichever process, saw the same end.
    const ends = new Map<string, Set<string>>()
    for (const [what, , ticket = "", tag = "", text = ""] of seen) {
      if (what === "ended") ends.set(ticket, (ends.get(ticket) ?? new Set()).add(`${tag} ${text}`))
    }
    const all = Array.from(tickets.values()).flatMap((set) => Array.from(set))
    assert.deepStrictEqual(
      all.filter((ticket) => ends.get(ticket)?.size !== 1),
      []
    )
    const tags = Map.groupBy(all, (ticket) => Array.from(ends.get(ticket) ?? [])[0]?.split(" ")[0])
    const tally = Object.fromEntries(Array.from(tags, ([tag, group]) => [tag, group.length]))
    assert.strictEqual(tally.Dead, 100)
    assert.isAtLeast(tally.Answered ?? 0, 700)

    // The store has nothing else: none lost, none twice, none still under way.
    const stored = await Effect.runPromise(
      Effect.gen(function* () {
        const queue = yield* DeferredQueue.DeferredQueue
        assert.deepStrictEqual(yield* queue.size, { queued: 0, running: 0 })
        return yield* Effect.forEach(all, (ticket) => queue.status(ticket))
      }).pipe(Effect.provide(DeferredQueue.layer().pipe(Layer.provide(storeAt(database)))))
    )
    assert.deepStrictEqual(
      stored.filter(
        (end) => !ends.get(end.ticket)?.has(`${end._tag} ${end._tag === "Answered" ? end.response.text : ""}`)
      ),
      []
    )
    // The model was asked at least once, and the second time nobody noticed.
    const asked = seen.filter(([what]) => what === "asked").map(([, index]) => index)
    const again = asked.length - new Set(asked).size
    console.log(`killed ${kills} times; asked ${again} times again; ended ${JSON.stringify(tally)}`)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}
