/**
 * Tables as Markdown and pictures as SVG.
 */
import type { Bundle, Cost } from "./Cost.ts"
import type { Run } from "./Outage.ts"
import type { Cell, Verdict } from "./Survival.ts"
import { scenarios } from "./Survival.ts"
import { type System, versionOf } from "./Systems.ts"

const tableOf = (header: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string =>
  [header, header.map((_, column) => (column === 0 ? "---" : "--:")), ...rows]
    .map((cells) => `| ${cells.join(" | ")} |`)
    .join("\n")

const unique = <A>(values: ReadonlyArray<A>): ReadonlyArray<A> => [...new Set(values)]

export const versions = (systems: ReadonlyArray<System>): string =>
  tableOf(
    ["system", "packages"],
    systems.map(({ name, packages }) => [
      name,
      packages.length === 0 ? "this commit" : packages.map((name) => `${name} ${versionOf(name)}`).join(", ")
    ])
  )

/** Rounds in the order of the scenarios. */
const roundsOf = (cells: ReadonlyArray<Cell>) =>
  scenarios.flatMap(({ about, name }) =>
    [false, true].flatMap((stream) => {
      const round = cells.filter((cell) => cell.scenario === name && cell.stream === stream)
      return round.length === 0 ? [] : [{ name, about, stream, round }]
    })
  )

const sums: ReadonlyArray<readonly [string, ReadonlyArray<Verdict>]> = [
  ["answered", ["answered"]],
  ["error in time", ["error"]],
  ["stopped with its caller", ["left"]],
  ["wrong text as a success", ["wrong"]],
  ["later than the deadline", ["late", "hung", "leaked", "crashed"]]
]

/** What a program can live with: an answer, one error in time, a caller who left no trace. */
const tolerable: ReadonlySet<Verdict> = new Set(["answered", "error", "left"])

export const survival = (cells: ReadonlyArray<Cell>): string => {
  const systems = unique(cells.map(({ system }) => system))
  const of = (system: string) => cells.filter((cell) => cell.system === system)
  const totals = tableOf(
    ["system", ...sums.map(([name]) => name), "seconds in all", "calls to the primary", "calls to the backup"],
    systems.map((system) => [
      system,
      ...sums.map(([, verdicts]) => String(of(system).filter(({ verdict }) => verdicts.includes(verdict)).length)),
      sum(of(system).map(({ seconds }) => seconds)).toFixed(0),
      String(sum(of(system).map(({ primaryCalls }) => primaryCalls ?? 0))),
      String(sum(of(system).map(({ backupCalls }) => backupCalls)))
    ])
  )
  const details = tableOf(
    ["fault", ...systems],
    roundsOf(cells).map(({ name, round, stream }) => [
      `${name}${stream ? ", streamed" : ""}`,
      ...systems.map((system) => {
        const cell = round.find((cell) => cell.system === system)
        if (cell === undefined) return "not run"
        const { backupCalls, primaryCalls, seconds, verdict } = cell
        return `${tolerable.has(verdict) ? verdict : `**${verdict}**`} ${seconds.toFixed(1)} s, ${primaryCalls ?? "?"}+${backupCalls}`
      })
    ])
  )
  return `${totals}\n\n<details><summary>All ${roundsOf(cells).length} rounds: verdict, seconds, calls to the primary + calls to the backup</summary>\n\n${details}\n\n</details>`
}

const sum = (values: ReadonlyArray<number>): number => values.reduce((total, value) => total + value, 0)

const colours: Record<Verdict, string> = {
  answered: "#2e9e6b",
  left: "#2e9e6b",
  error: "#e3b341",
  late: "#d9822b",
  hung: "#d9822b",
  leaked: "#d9822b",
  wrong: "#c93c37",
  crashed: "#c93c37"
}

const text = (x: number, y: number, content: string, attributes = ""): string =>
  `<text x="${x}" y="${y}" ${attributes}>${content.replaceAll("&", "&amp;").replaceAll("<", "&lt;")}</text>`

const picture = (width: number, height: number, about: string, body: ReadonlyArray<string>): string =>
  [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" font-family="sans-serif" font-size="12" fill="#24292f">`,
    `<title>${about}</title>`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    ...body,
    "</svg>\n"
  ].join("\n")

/** A row for each round, a column for each system, a colour for each verdict, and the seconds in it. */
export const survivalPicture = (cells: ReadonlyArray<Cell>): string => {
  const systems = unique(cells.map(({ system }) => system))
  const rounds = roundsOf(cells)
  const [left, top, wide, high] = [190, 64, 92, 18]
  const legend = (
    [
      ["answered", "answered completely"],
      ["error", "one error within the deadline"],
      ["late", "later than the deadline"],
      ["wrong", "wrong or cut text as a success"]
    ] as const
  ).flatMap(([verdict, about], index) => [
    `<rect x="${12 + index * 230}" y="10" width="12" height="12" fill="${colours[verdict]}"/>`,
    text(30 + index * 230, 20, about)
  ])
  return picture(
    left + systems.length * wide + 12,
    top + rounds.length * high + 12,
    "What becomes of a call, by fault and system",
    [
      ...legend,
      ...systems.flatMap((system, column) =>
        system
          .split(" + ")
          .map((line, index) =>
            text(
              left + column * wide + wide / 2,
              42 + index * 13,
              (index > 0 ? "+ " : "") + line,
              'text-anchor="middle"'
            )
          )
      ),
      ...rounds.flatMap(({ name, round, stream }, row) => [
        text(12, top + row * high + 13, `${name}${stream ? ", streamed" : ""}`),
        ...systems.flatMap((system, column) => {
          const cell = round.find((cell) => cell.system === system)
          const [x, y] = [left + column * wide, top + row * high]
          return cell === undefined
            ? []
            : [
                `<rect x="${x + 1}" y="${y + 1}" width="${wide - 2}" height="${high - 2}" fill="${colours[cell.verdict]}"/>`,
                text(x + wide / 2, y + 13, `${cell.seconds.toFixed(1)} s`, 'text-anchor="middle" fill="#ffffff"')
              ]
        })
      ])
    ]
  )
}

const seconds = (millis: number): string => (millis / 1000).toFixed(2)

export const outage = (runs: ReadonlyArray<Run>): string =>
  tableOf(
    [
      "system",
      "answered during the outage",
      "p50",
      "p95",
      "p99",
      "worst",
      "calls to the dead primary",
      "requests per call",
      "back after"
    ],
    runs.map((run) => [
      run.system,
      `${(run.answeredShare * 100).toFixed(1)} %`,
      `${seconds(run.p50Millis)} s`,
      `${seconds(run.p95Millis)} s`,
      `${seconds(run.p99Millis)} s`,
      `${seconds(run.worstMillis)} s`,
      String(run.callsToDead),
      run.requestsPerCall.toFixed(2),
      run.secondsToReturn === undefined ? "not within the run" : `${run.secondsToReturn} s`
    ])
  )

/** A strip for each system: for each second the p95 of the calls that began in it, red for the share of those that failed. */
export const outagePicture = (runs: ReadonlyArray<Run>): string => {
  const [left, top, high, gap] = [150, 50, 60, 14]
  const total = runs[0]?.seconds.length ?? 1
  const wide = 840 / total
  const bottom = top + runs.length * (high + gap)
  // Logarithmic from 50 ms to 20 s.
  const heightOf = (millis: number): number =>
    (high * Math.log(Math.min(20_000, Math.max(60, millis)) / 50)) / Math.log(20_000 / 50)
  const sixth = total / 6
  const marks = ["healthy", "503", "silence", "reset", "healthy again"].map((name, index) =>
    text(left + index * sixth * wide + 3, 44, name, 'fill="#57606a"')
  )
  return picture(left + 840 + 60, bottom + 12, "Latency and failures through an outage, by system", [
    text(
      12,
      20,
      `p95 of the calls that began in each second, logarithmic from 0.05 s to 20 s; red is the share of them that failed`
    ),
    ...marks,
    ...runs.flatMap((run, row) => {
      const y = top + row * (high + gap)
      return [
        ...run.system
          .split(" + ")
          .map((line, index) => text(12, y + high / 2 + index * 13, (index > 0 ? "+ " : "") + line)),
        `<rect x="${left + run.outage.from * wide}" y="${y}" width="${(run.outage.to - run.outage.from) * wide}" height="${high}" fill="#f6e5e5"/>`,
        ...run.seconds.flatMap(({ answered, failed, p95Millis }, second) => {
          const height = heightOf(p95Millis)
          const red = (height * failed) / Math.max(1, answered + failed)
          const x = (left + second * wide).toFixed(1)
          const bar = (from: number, size: number, fill: string) =>
            size <= 0
              ? []
              : [
                  `<rect x="${x}" y="${(y + high - from - size).toFixed(1)}" width="${(wide - 0.8).toFixed(1)}" height="${size.toFixed(1)}" fill="${fill}"/>`
                ]
          return [...bar(0, red, colours.wrong), ...bar(red, height - red, colours.answered)]
        }),
        ...[100, 1000, 10_000].map((millis) =>
          text(left + 844, y + high - heightOf(millis) + 4, `${millis / 1000} s`, 'font-size="9" fill="#57606a"')
        )
      ]
    })
  ])
}

export const cost = (wired: ReadonlyArray<Cost>, alone: ReadonlyArray<Cost>): string => {
  const ours = (costs: ReadonlyArray<Cost>) => costs.find(({ system }) => system === "llm-resilience")
  const rows = (costs: ReadonlyArray<Cost>, digits: number) => {
    const baseline = costs[0]
    const own = ours(costs)
    return costs.map((cost, index) => {
      const over = cost.callCpuMicros - (baseline?.callCpuMicros ?? 0)
      const ownOver = (own?.callCpuMicros ?? 0) - (baseline?.callCpuMicros ?? 0)
      return [
        cost.system,
        index === 0 ? "" : (over / ownOver).toFixed(2),
        cost.callCpuMicros.toFixed(digits),
        cost.callWallMicros.toFixed(digits),
        (cost.callBytes / 1024).toFixed(1),
        cost.chunkCpuMicros.toFixed(2),
        cost.retainedBytes.toFixed(0),
        megabytes(cost.memory.heapBytes),
        megabytes(cost.memory.residentBytes)
      ]
    })
  }
  const after = `after ${(wired[0]?.memory.calls ?? 0).toLocaleString("en")} calls, MB`
  const header = [
    "system",
    "CPU on top, ratio to ours",
    "CPU per call, µs",
    "wall per call, µs",
    "allocated per call, kB",
    "CPU per chunk, µs",
    "kept per call, bytes",
    `heap ${after}`,
    `process ${after}`
  ]
  const withoutChunks = (row: ReadonlyArray<string>) => row.filter((_, column) => column !== 5)
  return [
    "Over a canned `fetch`, wire included:",
    tableOf(header, rows(wired, 0)),
    "The guards alone, around a promise that is resolved already:",
    tableOf(withoutChunks(header), rows(alone, 2).map(withoutChunks))
  ].join("\n\n")
}

const megabytes = (bytes: number): string => (bytes / 1024 / 1024).toFixed(0)

export const bundle = (bundles: ReadonlyArray<Bundle>): string =>
  tableOf(
    ["system", "minified, kB", "gzipped, kB", "start, ms", "of it import, ms"],
    bundles.map(({ gzipped, importMillis, minified, startMillis, system }) => [
      system,
      (minified / 1024).toFixed(0),
      (gzipped / 1024).toFixed(0),
      startMillis.toFixed(0),
      importMillis.toFixed(0)
    ])
  )
