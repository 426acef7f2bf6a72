// The projects there are, for whoever shows a name or a choice of them.

import { get } from "../api.js";

const PAGE = 100;

export class Projects {
  list = [];

  async load() {
    const list = [];
    for (let page = 1, pages = 1; page <= pages; page += 1) {
      const { projects, pagination } = await get(`/api/projects?limit=${PAGE}&page=${page}`);
      list.push(...projects);
      ({ pages } = pagination);
    }
    this.list = list;
    dispatchEvent(new Event("projects"));
  }

  name(projectId) {
    return this.list.find((project) => project.projectId === projectId)?.name;
  }
}
